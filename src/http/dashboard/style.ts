/** The looks of the page: numbers in columns, nothing that only decorates, light and dark as the reader's system is. */
export const style = `
:root {
  color-scheme: light dark;
  --ground: #ffffff; --text: #1c1f23; --quiet: #5b636d; --line: #d9dde2;
  --good: #17692d; --bad: #b3261e; --warn: #8a5300;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171a; --text: #e4e7ea; --quiet: #9aa3ad; --line: #333a41;
    --good: #6fcf87; --bad: #ff8a80; --warn: #f0b35c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem; max-width: 72rem; background: var(--ground); color: var(--text);
  font: 0.9375rem/1.45 system-ui, sans-serif;
}
h1 { margin: 0; font-size: 1.375rem; font-weight: 650; overflow-wrap: anywhere; }
h1 small { color: var(--quiet); font-size: 0.9375rem; font-weight: 400; }
h2 { margin: 2rem 0 0.5rem; font-size: 1.0625rem; font-weight: 650; }
h2 span { color: var(--quiet); font-weight: 400; }
p { margin: 0.25rem 0; }
a { color: inherit; }
#state { margin-top: 0.5rem; font-size: 1.0625rem; overflow-wrap: anywhere; }
#state b { font-weight: 650; }
.good { color: var(--good); }
.bad { color: var(--bad); }
.warn { color: var(--warn); }
.quiet { color: var(--quiet); }
#stale { margin: 1rem 0 0; padding: 0.5rem 0.75rem; border: 2px solid var(--bad); color: var(--bad); font-weight: 650; }
.old #data { opacity: 0.55; }
dl { display: grid; grid-template-columns: repeat(4, 1fr); gap: 1rem 1.5rem; margin: 1.5rem 0 0; }
dt { color: var(--quiet); }
dd { margin: 0; font-size: 1.375rem; font-variant-numeric: tabular-nums; line-height: 1.3; }
dd small { display: block; min-height: 1.45em; color: var(--quiet); font-size: 0.875rem; }
.wide { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; }
th, td { padding: 0.375rem 1.25rem 0.375rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--quiet); font-weight: 400; white-space: nowrap; }
th:last-child, td:last-child { padding-right: 0; }
tbody th { color: inherit; }
td { white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.text { min-width: 14rem; white-space: normal; overflow-wrap: anywhere; }
#debts td:first-child { min-width: 19rem; }
td ul { margin: 0.25rem 0 0; padding: 0; list-style: none; color: var(--quiet); }
summary { cursor: pointer; color: var(--quiet); }
footer { margin-top: 2.5rem; color: var(--quiet); }
@media (max-width: 40rem) {
  body { padding: 1rem; }
  dl { grid-template-columns: 1fr 1fr; gap: 0.75rem 1rem; }
  dd { font-size: 1.125rem; }
  #debts-table thead { display: none; }
  #debts-table table, #debts-table tbody { display: block; }
  #debts-table tr { display: flex; flex-wrap: wrap; gap: 0 1rem; padding: 0.5rem 0; border-bottom: 1px solid var(--line); }
  #debts-table td { padding: 0; border: 0; }
  #debts td:first-child { min-width: 0; }
  #debts-table td.text { flex: 1 0 100%; }
  #debts-table td.number { color: var(--quiet); }
  #debts-table td.number::before { content: attr(data-label) " "; }
}
`
