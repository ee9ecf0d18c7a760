from whispertune.api import Model as Model
from whispertune.api import Run as Run
from whispertune.api import load as load
from whispertune.api import split_corpus as split_corpus
from whispertune.api import train as train

__version__: str
