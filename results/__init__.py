"""The only place where numbers live: store, tables, figures, report."""
