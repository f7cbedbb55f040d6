"""Files that were damaged by chance or made to harm, given to every reader."""
