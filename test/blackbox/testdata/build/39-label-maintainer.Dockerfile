FROM box
LABEL a=b "c d"=e
MAINTAINER somebody
