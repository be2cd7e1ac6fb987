"""The books in PostgreSQL: any number of gateways on any number of hosts share them."""
