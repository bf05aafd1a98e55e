FROM box
ADD files.tar.gz /un/
