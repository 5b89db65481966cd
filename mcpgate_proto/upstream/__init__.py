"""The server faces: each turns exchanges into its server's revision, and answers back into outcomes."""
