"""Stories against a real LND and a real payer."""
