"""A campaign of faults: training runs that are killed and damaged, and must end as if nothing had been."""
