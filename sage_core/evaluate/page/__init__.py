"""The report as one HTML page: any number of erasures side by side, with their pictures inside."""
