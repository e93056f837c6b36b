/**
 * The page at `/`: who the members are, how far this node is, what it owes and why. One document that needs nothing
 * else; the policy that goes with it lets it run its own script, and ask this node, and nothing more.
 */
import { createHash } from "node:crypto"
import { script } from "./script.ts"
import { style } from "./style.ts"

export const html = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>file-replication</title>
<link rel="icon" href="data:,">
<style>${style}</style>
</head>
<body>
<header>
<h1><span id="node">file-replication</span> <small id="what"></small></h1>
<p id="state" role="status">Asking this node …</p>
<p id="stale" role="alert" hidden></p>
</header>
<noscript><p>This page needs JavaScript. <a href="/ready">/ready</a> says the same as JSON, and so does
<code>file-replication status</code>.</p></noscript>
<main id="data" hidden>
<dl>
<div><dt>Held</dt><dd id="held"></dd></div>
<div><dt>Owed</dt><dd id="owed"></dd></div>
<div><dt>Oldest owed for</dt><dd id="oldest"></dd></div>
<div><dt>Receiving</dt><dd id="receiving"></dd></div>
<div><dt>Sending</dt><dd id="sending"></dd></div>
<div><dt>Manifest followed to</dt><dd id="revision"></dd></div>
<div><dt>In flight</dt><dd id="flight"></dd></div>
<div><dt>Free on disk</dt><dd id="free"></dd></div>
</dl>
<section aria-labelledby="members-title">
<h2 id="members-title">Members <span id="members-count"></span></h2>
<div class="wide" tabindex="0" role="region" aria-labelledby="members-title"><table>
<thead><tr><th scope="col">Node</th><th scope="col">State</th><th scope="col" class="number">Behind</th>
<th scope="col">Role</th><th scope="col">Address</th><th scope="col">Version</th></tr></thead>
<tbody id="members"></tbody>
</table></div>
</section>
<section aria-labelledby="debts-title">
<h2 id="debts-title">Owed <span id="debts-count"></span></h2>
<div class="wide" id="debts-table" tabindex="0" role="region" aria-labelledby="debts-title"><table>
<thead><tr><th scope="col">File</th><th scope="col" class="number">Size</th><th scope="col" class="number">Owed for</th>
<th scope="col" class="number">Tried</th><th scope="col" class="number">Again in</th><th scope="col">Why</th></tr></thead>
<tbody id="debts"></tbody>
</table></div>
</section>
</main>
<footer><span id="asked"></span> <a href="/docs">API</a> · <a href="/metrics">Metrics</a></footer>
<script>${script}</script>
</body>
</html>
`

const hashOf = (text: string) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`

/** The headers that go with the page. */
export const headers = {
  "cache-control": "no-cache",
  "content-security-policy": [
    "default-src 'none'",
    `script-src ${hashOf(script)}`,
    `style-src ${hashOf(style)}`,
    "img-src data:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'"
  ].join("; "),
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff"
}
