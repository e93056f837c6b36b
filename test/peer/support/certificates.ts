/** An authority for tests and the certificates that it signs, made with the `openssl` command. */
import { Effect, Redacted, type Scope } from "effect"
import { execFileSync } from "node:child_process"
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import type { TlsIdentity } from "../../../src/peer/transport/Tls.ts"
import { temporaryFolder } from "../../support/folder.ts"

const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]

/** Gives identities by their subject alternative name, `IP:127.0.0.1` or `DNS:localhost`. */
export const makeAuthority: Effect.Effect<(name: string) => TlsIdentity, never, Scope.Scope> = Effect.map(
  temporaryFolder,
  (folder) => {
    const openssl = (...args: ReadonlyArray<string>) => execFileSync("openssl", args, { cwd: folder, stdio: "ignore" })
    const text = (name: string) => readFileSync(join(folder, name), "utf8")
    openssl("req", "-x509", ...curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority")
    return (name) => {
      writeFileSync(join(folder, "extensions"), `subjectAltName=${name}\n`)
      openssl("req", ...curve, "-keyout", "node.key", "-out", "node.csr", "-subj", "/CN=node")
      const sign = "x509 -req -in node.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions"
      openssl(...sign.split(" "), "-out", "node.pem")
      return { certificate: text("node.pem"), key: Redacted.make(text("node.key")), authority: text("ca.pem") }
    }
  }
)
