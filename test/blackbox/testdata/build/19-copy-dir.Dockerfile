FROM box
COPY dir /dst
COPY dir/ /dst2/
