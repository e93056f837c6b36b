/** The page at `/` of real nodes, in a real browser. `DASHBOARD_PICTURES=docs` puts its pictures there. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { browser } from "../support/browser.ts"
import { temporaryFolder } from "../support/folder.ts"
import { lineOf, run, type Running, start } from "./command.ts"
import { configure, entryLine } from "./configure.ts"

const urlOf = (node: Running) =>
  Effect.map(lineOf(node, /it serves http/), (line) => /(http:\S+)\/health/.exec(line)?.[1] ?? "")

const pictures = process.env["DASHBOARD_PICTURES"]

/** A path that would run, where paths are taken for markup. */
const hostile = pictures === undefined
  ? "db/<img src=x onerror=document.title='taken'>/a.parquet"
  : "db/mem/2026/04/11/14/lost.parquet"

describe("the page of a node", () => {
  it.live(
    "tells who the members are, what is owed and why, in light and dark and on a phone, and when it is old",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const sources = ["cpu", "mem", "disk"].map((name) => join(folder, `${name}.parquet`))
        for (const [index, source] of sources.entries()) {
          yield* Effect.promise(() => writeFile(source, new Uint8Array(3_000_000 * (index + 1)).fill(index)))
        }
        const lost = ["db/cpu/2026/04/11/14/lost.parquet", hostile].map((path) => entryLine(path, "nobody has this"))
        const list = join(folder, "lost.jsonl")
        yield* Effect.promise(() => writeFile(list, `${lost.join("\n")}\n`))
        const config = yield* configure(folder, "writer", "role = \"writer\"")
        const published = yield* run(["publish", ...sources, "--as", "db/cpu/2026/04/11/14", "--config", config])
        assert.strictEqual(published.code, 0, published.stderr)
        const imported = yield* run(["manifest", "import", list, "--config", config])
        assert.strictEqual(imported.code, 0, imported.stderr)
        const writer = yield* start(["node", "--config", config])
        yield* lineOf(writer, /it serves http/)
        const reader = yield* start(["node", "--config", yield* configure(folder, "reader-1")])
        const url = yield* urlOf(reader)

        const chromium = yield* browser
        yield* Effect.promise(async () => {
          const page = await chromium.newPage({ colorScheme: "light", viewport: { width: 1100, height: 720 } })
          const wrong: Array<string> = []
          const asked = new Set<string>()
          page.on("console", (message) => {
            if (message.type() === "error") wrong.push(message.text())
          })
          page.on("pageerror", (error) => wrong.push(error.message))
          page.on("request", (request) => asked.add(new URL(request.url()).origin))

          const response = await page.goto(url)
          assert.strictEqual(response?.status(), 200)
          assert.include(response?.headers()["content-security-policy"] ?? "", "default-src 'none'")
          const text = (selector: string) => page.locator(selector).first().innerText()
          // Everything that can come has come, and each of the others was tried in vain.
          await page.locator("#held", { hasText: /^3 files/ }).waitFor()
          for (const row of [1, 2]) await page.locator(`#debts tr:nth-child(${row}) details`).waitFor()
          assert.strictEqual(await text("#node"), "reader-1")
          assert.match(await text("#state"), /^Not ready: 2 files are owed, 30 bytes/)
          assert.match(await text("#owed"), /^2 files\s+30 B$/)
          assert.match(await text("#held"), /^3 files\s+17\.2 MiB$/)
          assert.strictEqual(await text("#members-count"), "2 of 2 alive; behind in revisions of the manifest")
          const members = await page.locator("#members tr").allInnerTexts()
          assert.match(members[0] ?? "", /^reader-1 \(this node\)\s+alive/)
          assert.match(members[1] ?? "", /^writer\s+alive/)
          assert.include(await page.locator("#debts tr").allInnerTexts().then((rows) => rows.join("\n")), hostile)
          assert.match(await text("#debts td.why"), /no peer delivered it/)
          await page.locator("#debts summary").first().click()
          const opened = await page.locator("#debts details[open] li").first().innerText()
          assert.match(opened, /^writer, .+ ago: writer does not hold /)
          // What was opened stays open when the page is filled anew.
          await page.evaluate("document.querySelector('#debts tr').id = 'before'")
          await page.locator("#before").waitFor({ state: "detached" })
          assert.strictEqual(await page.locator("#debts details[open]").count(), 1)
          assert.match(await page.title(), /^not ready: reader-1/)

          const style = (selector: string, property: string) =>
            page.evaluate<unknown>(`getComputedStyle(document.querySelector("${selector}")).${property}`)
          const colours = async () => [await style("body", "backgroundColor"), await style("body", "color")]
          const light = await colours()
          if (pictures !== undefined) await page.screenshot({ path: join(pictures, "dashboard-light.png") })
          await page.emulateMedia({ colorScheme: "dark" })
          const dark = await colours()
          assert.notDeepEqual(light, dark)
          if (pictures !== undefined) await page.screenshot({ path: join(pictures, "dashboard-dark.png") })

          await page.setViewportSize({ width: 360, height: 740 })
          const overflows = () => page.evaluate<unknown>("document.documentElement.scrollWidth > window.innerWidth")
          assert.strictEqual(await overflows(), false)
          assert.isTrue(await page.locator("#debts td.why").first().isVisible())
          if (pictures !== undefined) {
            await page.screenshot({ path: join(pictures, "dashboard-phone.png"), fullPage: true })
          }

          reader.child.kill("SIGKILL")
          await page.locator("#stale").waitFor({ state: "visible" })
          assert.match(await text("#stale"), /^This node does not answer: it can't be reached\. What is shown is from /)
          assert.strictEqual(await page.locator("body").getAttribute("class"), "old")
          assert.match(await page.title(), /^no answer/)
          assert.isTrue(Number(await style("#data", "opacity")) < 1)
          assert.deepStrictEqual(wrong.filter((text) => !text.includes("ERR_CONNECTION_REFUSED")), [])
          assert.deepStrictEqual([...asked], [new URL(url).origin])
        })
      }),
    180_000
  )
})
