"""What people look at: boards and alerts as code (the issue *Boards* fills this package)."""
