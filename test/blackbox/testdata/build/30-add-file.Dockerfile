FROM box
ADD a.txt /added
