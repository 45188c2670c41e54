"""What the tests share, and no test itself.

To be imported:

- ``data``: samples, loaders, and streams.
- ``models``: modules that learn them, each with one peculiarity.
- ``training``: a trainer that is quiet, and a callback that notes learning rates.
- ``twins``: the same for each of the two Lightning packages.
- ``exactness``: a training after a range test, held bit for bit against one without.
- ``scenarios``: in which situations that is done, and what breaks it.
- ``processes``: starts the processes of one job together, and sees them end.

Scripts that these processes run:

- ``ranks``: experiments of several ranks.
- ``faults``: faults that several ranks meet.
- ``command``: a command line as a user writes it.
"""
