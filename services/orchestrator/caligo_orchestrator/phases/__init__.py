"""The three phases of a campaign, each a generator that yields durable result rows or progress as they come."""
