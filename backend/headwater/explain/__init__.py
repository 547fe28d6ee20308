"""Why a name answers as it does: the rules of compiler and resolver, walked with words."""
