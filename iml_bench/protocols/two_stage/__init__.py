"""The paper's protocol: what stage 1 makes a tag worth, and what stage 2 makes of it."""
