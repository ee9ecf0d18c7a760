"""The style sheet of check.html."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ink: #1d2327; --soft: #667077; --line: #d9dee2; --card: #f6f8f9; --page: #ffffff;
  --error: #b3261e; --note: #8a6100; --bar: #2f6f9f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaec; --soft: #9aa5ad; --line: #343c42; --card: #1d2327;
  --page: #14181b; --error: #ff8a80; --note: #f0c34e; --bar: #6fb1e0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
p.lead { color: var(--soft); margin: 0 0 1.5rem; }
.figures { display: flex; flex-wrap: wrap; gap: .75rem; }
.figure { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem 1rem;
  min-width: 9rem; }
.figure b { display: block; font-size: 1.5rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.figure span { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .45rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td { overflow-wrap: break-word; } td:last-child { min-width: 10rem; }
.error { color: var(--error); font-weight: 600; } .note { color: var(--note); font-weight: 600; }
.id { display: block; max-width: 16rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bars { display: flex; align-items: flex-end; gap: 2px; height: 9rem; margin-top: .5rem; }
.bars div { flex: 1; display: flex; flex-direction: column; justify-content: flex-end; height: 100%; min-width: 0; }
.bars i { display: block; background: var(--bar); border-radius: 2px 2px 0 0; }
.bars b { font-weight: 400; font-size: .75rem; color: var(--soft); text-align: center; white-space: nowrap; }
details { margin: .6rem 0; } summary { cursor: pointer; }
ul.rest { padding-left: 1.1rem; font-size: .88rem; overflow-wrap: anywhere; }
.soft { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; } h2 .soft { font-weight: 400; }
audio { width: 15rem; height: 2.2rem; display: block; }
a { color: inherit; } a:hover { color: var(--bar); }
@media (max-width: 44rem) { /* a row becomes a card, each value under the heading of its column */
  thead { display: none; }
  tr { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: .6rem 0; border-bottom: 1px solid var(--line); }
  td, td.number { display: block; padding: 0; border: 0; max-width: 100%; text-align: left; white-space: normal; }
  .id { max-width: 100%; white-space: normal; overflow-wrap: anywhere; } .bars b:last-child { font-size: .6rem; }
  td:empty { display: none; } td:last-child { flex-basis: 100%; min-width: 0; }
  td[data-heading]::before { content: attr(data-heading); display: block; color: var(--soft); font-size: .8rem; }
}
"""
