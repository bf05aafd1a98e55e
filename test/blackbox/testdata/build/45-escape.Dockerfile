# escape=`
FROM box
RUN echo a `
 > /a
