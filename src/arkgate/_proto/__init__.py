"""Generated protocol buffers; made by `make proto`, never edited."""
