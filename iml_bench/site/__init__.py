"""The leaderboard as a folder of pages that works offline, and its figures; needs the extra ``site``, never torch."""
