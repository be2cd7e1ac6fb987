"""What `arkgate init` writes."""

TEMPLATE = """\
# arkgate: sells calls to your AI chat backend for sats.
# Paths are relative to this file. `arkgate config check` says what is wrong or missing;
# `arkgate serve` starts the gateway.

[gateway]
listen = "127.0.0.1:8402"            # put a TLS proxy such as nginx or Caddy before it
operator_listen = "127.0.0.1:8403"   # metrics and health; keep it on loopback
# public_url = "https://api.example.com"   # the address that payers use
# name = "arkgate"                   # what pages and maps call it
# contact = "mailto:me@example.com"  # who finds a fault writes there
# trusted_proxies = ["127.0.0.1"]    # whose X-Forwarded-For counts
# log_level = "info"                 # debug, info, warning, error

[store]
url = "sqlite:///arkgate.db"         # or "postgresql://user@host/database": for several gateways
keys_file = "arkgate-keys.json"      # made on the first start; back it up apart from the database
# log_megabytes = 80                 # disk for SQLite's log; a small one is written back more often
# answers_kept_hours = 24            # how long a charged answer can be fetched again
# unpaid_kept_days = 90              # when a funding request that nobody paid is forgotten

# The node that makes the invoices. LND's stock invoice.macaroon is enough; a narrower one:
#   lncli bakemacaroon invoices:read invoices:write info:read
# A Core Lightning (docs/nodes/cln.md) has these in place of tls_cert_file and macaroon_file:
#   kind = "cln"
#   address = "127.0.0.1:9736"
#   ca_cert_file = "~/.lightning/bitcoin/ca.pem"
#   client_cert_file = "~/.lightning/bitcoin/client.pem"
#   client_key_file = "~/.lightning/bitcoin/client-key.pem"
# A barkd (docs/nodes/barkd.md), which keeps 100 sats and more of each payment:
#   kind = "barkd"
#   address = "127.0.0.1:3000"
#   token_file = "~/.bark/auth_token"
#   ark_addresses = true               # sessions may be paid to Ark addresses of it, too
# A waved (docs/nodes/waved.md), which has waved's own tls.cert and admin.macaroon in its two files:
#   kind = "waved"
#   address = "127.0.0.1:10029"
# A Fulmine (docs/nodes/fulmine.md), in plain text, whose Boltz takes 333 sats and more:
#   kind = "fulmine"
#   address = "127.0.0.1:7000"
#   macaroon_file = "fulmine.macaroon"
#   boltz_url = "https://api.boltz.exchange"
[[nodes]]
kind = "lnd"
address = "127.0.0.1:10009"
tls_cert_file = ""                   # e.g. "~/.lnd/tls.cert"
macaroon_file = ""                   # e.g. "~/.lnd/data/chain/bitcoin/mainnet/invoice.macaroon"
# tls_server_name = "localhost"      # a name in the certificate, where the address is not
# network = "mainnet"                # refuse invoices of any other network
# minimum_sats = 1                   # the smallest and largest invoice to ask the node for
# maximum_sats = 1000000
# name = "lnd"                       # with several [[nodes]]: a name and a number for each, which it keeps
# number = 0                         # for ever; new invoices come from the first that is well

# Any OpenAI-compatible server: Ollama, vLLM, llama.cpp, or a provider.
[backend]
url = ""                             # e.g. "http://127.0.0.1:11434/v1"
model = ""                           # e.g. "llama3.2"
# api_key_file = "backend.key"       # or api_key = "…"
# system_prompt = "Answer concisely."
# model_label = "arkgate-chat-v1"    # the model's name for callers and in answers
# max_tokens = 512
# concurrency_max = 64               # more calls at once are answered 503 before anything is held
# queue_max = 0                      # or wait for their turn: so many, and
# queue_timeout_seconds = 5          # so long
# connect_timeout_seconds = 5
# first_byte_timeout_seconds = 60
# total_timeout_seconds = 120
# heartbeat_seconds = 10             # what keeps a stream's reader waiting for the first token
# drain_seconds = 30                 # how long a stream goes on whose reader has left
# server_tools = []                  # such as ["web_search"]: tools that the backend runs, at your cost

[[services]]
name = "ai_chat"
path = "/api/ai-chat"
price_sats = 50
calls_per_day = 5                    # a UTC day and account; 0 for any number
# openai = true                      # sell OpenAI's routes, too: /v1/chat/completions and others

# Any other HTTP API is sold by an entry of its own (docs/sell-your-api.md):
# [[services]]
# kind = "http"
# name = "weather"
# path = "/weather/"                 # everything under it
# methods = ["GET"]
# price_sats = 2
# backends = ["weather"]

# [[backends]]
# name = "weather"
# kind = "http"
# url = "http://127.0.0.1:8081"

# Models with prices of their own; without an entry there is one, at the service's price:
# [[models]]
# name = "arkgate-chat-v1"
# input_sats_per_million = 300       # or price_sats, for each call
# cached_sats_per_million = 30
# cache_write_sats_per_million = 375 # what the backend puts into its cache; as input, unless given
# output_sats_per_million = 1500
# max_tokens = 8192                  # a request for more is cut to it
# default_max_tokens = 4096          # what is held for a request that names no length
# context_tokens = 131072
# picture_tokens = 1600              # what a picture may cost at most
# length_field = "max_tokens"        # or "max_completion_tokens", where the model takes only that

# [cache]                            # exact repeats are answered from here
# ttl_seconds = 600                  # 0: never
# hit_percent = 100                  # what such an answer costs of its price
# per_account = false                # only an account's own answers
# temperature_max = 0                # OpenAI's requests above it are asked anew
# megabytes = 64
# url = "memory"                     # or "redis://127.0.0.1:6379/0", which several gateways share

# [l402]
# challenge_calls = 1                # calls in one L402 challenge; clients refuse more than 1000 sats
# invoice_expiry_seconds = 600
# credential_days = 365
# append_version_and_token = false   # the newest draft's parameters; some clients cannot read them

# [sessions]
# balance_expiry = "never"           # when an unused balance is lost; payers are told before they pay
# minimum_sats = 1
# maximum_sats = 1000000
# invoice_expiry_seconds = 86400

# [fiat]                             # shown beside sats, never charged by
# currency = "EUR"
# rate_url = "https://rates.example.com/bitcoin.json"   # or rate = 60000
# rate_field = "bitcoin.eur"

# [limits]
# challenges_per_minute_and_client = 60
# challenges_per_minute = 1200
# sessions_per_hour_and_client = 10
# sessions_per_hour = 1000
# calls_at_once = 1024               # paid calls; more are answered 503
# calls_at_once_and_account = 64     # more are answered 429
# calls_at_once_and_client = 128
# calls_per_minute_and_account = 6000
# calls_per_minute_and_client = 12000
# bodies_megabytes = 256
"""
