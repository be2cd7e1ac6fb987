"""The storm: gateways under load while everything around them breaks, audited from outside at the end."""
