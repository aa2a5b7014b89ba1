"""What every recipe needs: settings, files that are whole, processes that train together, loaders, command lines."""
