"""What a run answers over HTTP: whether it lives, how much it does, and what its sources shall be (extra ``serve``)."""
