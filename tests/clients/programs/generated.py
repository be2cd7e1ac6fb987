"""Buys a call with the client that was generated from the gateway's own description."""

import json
import os
import sys

sys.path.insert(0, os.environ["GENERATED"])

from bought import AuthenticatedClient, Client
from bought.api.account import balance
from bought.api.ai import post_api_ai_chat
from bought.api.funding import open_session
from bought.models import AiChat, Amount

url = os.environ["CLIENT_URL"]
opened = open_session.sync(client=Client(base_url=url), body=Amount(amount_sats=500))
print(opened.funding.lightning_invoice, flush=True)
sys.stdin.readline()  # paid

client = AuthenticatedClient(base_url=url, token=opened.token)
while balance.sync(client=client).status != "active":
    pass
question = AiChat(prompt=os.environ["CLIENT_QUESTION"])
answer, again = (post_api_ai_chat.sync(client=client, body=question, idempotency_key="one") for _ in "12")
left = balance.sync(client=client)
told = [answer.data.answer, answer.cost_sats, again.data.answer, left.available_sats, left.calls_left_today]
print(json.dumps(told))
