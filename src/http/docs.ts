/** `GET /docs`: the API for people, in a page that needs nothing from elsewhere. It is large, so built when first asked for. */
import { Effect, Layer } from "effect"
import { HttpRouter } from "effect/http"
import { HttpApiSwagger } from "effect/http-api"
import { Api } from "./Api.ts"

export const docs = HttpRouter.use(Effect.fnUntraced(function*(router) {
  const page = yield* Effect.cached(Effect.scoped(Effect.gen(function*() {
    const pages = yield* HttpRouter.make
    yield* Layer.build(HttpApiSwagger.layer(Api).pipe(Layer.provide(Layer.succeed(HttpRouter.HttpRouter, pages))))
    return pages.asHttpEffect()
  })))
  yield* router.add("GET", "/docs", Effect.orDie(Effect.flatten(page)))
}))
