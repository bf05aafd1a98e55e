FROM box
CMD echo hello $HOME
