"""PingPong v2 (Gusev, 2024): a model plays a character in a chat with a user who is another model; a judge rates it."""
