"""From rows to the windows of a split; every row is inspected before compute is spent."""
