/** A thread that dies in the ways that threads do. */
import { serve } from "../../src/internal/threadSide.ts"

serve({
  exit: (code: number): void => process.exit(code),
  throwLater: (): string => {
    setImmediate(() => {
      throw new Error("a bug")
    })
    return "answered"
  },
  hang: (): void => {
    while (true);
  },
  echo: (text: string): string => text
})
