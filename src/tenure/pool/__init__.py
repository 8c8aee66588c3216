"""Where rows live: arena, host tier, transfers, pager, sizing."""
