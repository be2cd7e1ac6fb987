"""What users do, from their side, against the real gateway."""
