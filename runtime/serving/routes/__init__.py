"""Routes: each file has `router(service)`; `runtime.serving.app` lists them."""
