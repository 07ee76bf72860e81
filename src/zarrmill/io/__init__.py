"""Every byte that moves: clients, retries, timeouts and credentials live here, once."""
