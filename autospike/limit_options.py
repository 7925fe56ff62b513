"""Options of the command line for hard limits; each sets the field of `search.constraints` with its name."""

from __future__ import annotations

from typing import Annotated

import typer

MaxEnergy = Annotated[float | None, typer.Option(help="Largest energy per image in uJ.", rich_help_panel="Limits")]
MaxParams = Annotated[int | None, typer.Option(help="Largest number of parameters.", rich_help_panel="Limits")]
MaxTimeSteps = Annotated[int | None, typer.Option(help="Largest T.", rich_help_panel="Limits")]
MaxMacs = Annotated[int | None, typer.Option(help="Largest number of dense MACs of a time step.", rich_help_panel="Limits")]
MaxWeights = Annotated[float | None, typer.Option(help="Largest memory of the weights in kB.", rich_help_panel="Limits")]
MaxActivations = Annotated[float | None, typer.Option(help="Largest memory of the activations in kB.", rich_help_panel="Limits")]
MaxFanIn = Annotated[int | None, typer.Option(help="Largest number of synapses of a neuron.", rich_help_panel="Limits")]
MinAccuracy = Annotated[float | None, typer.Option(help="Smallest accuracy on the search split.", rich_help_panel="Limits")]
