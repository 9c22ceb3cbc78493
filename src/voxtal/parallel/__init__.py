"""How work is spread over processes; the only place that knows MPI."""
