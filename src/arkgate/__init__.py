"""arkgate: a self-hosted payment gateway that sells AI chat calls and other HTTP APIs for sats."""
