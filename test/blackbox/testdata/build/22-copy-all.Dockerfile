FROM box
WORKDIR /all
COPY . .
