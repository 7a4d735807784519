"""How a run starts, what it gives out, and how it ends early."""
