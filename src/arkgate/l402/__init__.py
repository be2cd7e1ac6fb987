"""L402 credentials: identifier, caveats, macaroon, header."""
