/** Debian's Chromium, for what only a browser can tell. */
import { Effect } from "effect"
import { existsSync } from "node:fs"
import { type Browser, chromium } from "playwright-core"

const executablePath = "/usr/bin/chromium"

const args = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync"
]

/** Starts one with a profile of its own; the scope ends it. Without it the test fails, and says how to get it. */
export const browser = Effect.acquireRelease(
  Effect.promise((): Promise<Browser> => {
    if (!existsSync(executablePath)) throw new Error(`${executablePath} is missing: apt-get install chromium`)
    return chromium.launch({ executablePath, args })
  }),
  (browser) => Effect.promise(() => browser.close())
)
