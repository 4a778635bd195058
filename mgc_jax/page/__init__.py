"""A local web page that classifies songs and albums: `mgc-jax page MODEL`.

It listens on this computer alone. Files come in one request (`uploads`), are classified one request after the other
(`classifier`) and are deleted when the request ends, however it ends (`app`).
"""
