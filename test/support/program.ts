/** Programs that tests start as processes. `npm test` has bundled them, see `bundle.ts`; else their sources run. */
import { join, relative } from "node:path"

export const root = join(import.meta.dirname, "../..")

/** Those that are bundled. */
export const programs = [
  "src/main.ts",
  "test/backend/localChild.ts",
  "test/failures/killChild.ts",
  "test/failures/killHook.ts",
  "test/manifest/registrant.ts",
  "test/membership/member.ts",
  "test/membership/memberEtcd.ts"
]

/** What node is to run for a source file. */
export const program = (source: string): string => {
  const folder = process.env["TEST_PROGRAMS"]
  const name = relative(root, source)
  return folder === undefined || !programs.includes(name) ? source : join(folder, name.replace(/\.ts$/, ".js"))
}
