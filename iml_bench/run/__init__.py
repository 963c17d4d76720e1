"""From a request to records: planning, cells, jobs, executors, sessions."""
