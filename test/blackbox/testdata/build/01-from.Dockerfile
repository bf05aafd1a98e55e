FROM box
