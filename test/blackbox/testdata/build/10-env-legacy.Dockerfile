FROM box
ENV KEY some value here
RUN echo $KEY > /k
