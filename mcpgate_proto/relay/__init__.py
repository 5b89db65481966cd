"""The era-neutral middle: exchanges, routing, merged lists, subscriptions. Knows no revision's wire."""
