FROM box
ADD files.tar /un
