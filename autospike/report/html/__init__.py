"""The report as one HTML page that needs no network: data of a run, a style, and a script that draws."""
