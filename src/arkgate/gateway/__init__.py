"""The job: quote, challenge, fund, admit, reserve, forward, settle."""
