"""The server: a page and an HTTP interface that cut cars out of photographs."""
